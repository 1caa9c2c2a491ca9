"""Everything between the coordinator and the machines: the Ray session, placement, actor groups, the generator pool."""
