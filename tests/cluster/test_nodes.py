"""Which machine each role goes to."""

from __future__ import annotations

from rayalign.cluster.nodes import nodes_of_roles

GPU = {"CPU": 1.0, "GPU": 1.0}
NODES = {"a": {"CPU": 16.0, "GPU": 4.0}, "b": {"CPU": 16.0, "GPU": 4.0}}


def test_ranks_of_a_role_share_a_node() -> None:
    """In the order of the roles, three and three would straddle."""
    roles = {"policy": [GPU] * 3, "critic": [GPU] * 3, "reference": [GPU], "reward": [GPU]}
    homes = nodes_of_roles(roles, NODES)
    assert homes["policy"] != homes["critic"]
    assert {homes["reference"], homes["reward"]} == {"a", "b"}


def test_a_small_role_goes_where_it_leaves_the_least() -> None:
    free = {"a": {"CPU": 8.0, "GPU": 8.0}, "b": {"CPU": 8.0, "GPU": 2.0}}
    assert nodes_of_roles({"policy": [GPU] * 2}, free) == {"policy": "b"}


def test_fractions_of_a_device_fill_it() -> None:
    third = {"CPU": 0.0, "GPU": 1 / 3}
    assert nodes_of_roles({"policy": [third] * 3}, {"a": {"GPU": 1.0}}) == {"policy": "a"}


def test_a_role_larger_than_any_node_leaves_the_choice_to_ray() -> None:
    assert nodes_of_roles({"policy": [GPU] * 5, "critic": [GPU]}, NODES) == {}
