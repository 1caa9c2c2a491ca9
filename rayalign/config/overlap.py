"""What an online stage does with answers that new weights, or a whole iteration, find unfinished."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt

from rayalign.config.section import Section

InFlight = Literal["continue", "restart", "wait"]
OldPolicy = Literal["present", "behaviour"]


class OverlapConfig(Section):
    """Answers in flight, and prompts beyond those of an iteration."""

    in_flight: InFlight = "continue"
    """answers that new weights find half written go on with them, are written anew, or are awaited by the weights"""
    extra_prompts: NonNegativeInt = 0
    """prompts that are written beside those of an iteration, which is whole without the last ones"""
    tail: Literal["drop", "later"] = "drop"
    """these last ones are given up, or trained on in the next iteration, for which one version of staleness is kept"""
    old_policy: OldPolicy = "present"
    """whose log-probs of stale answers the policy's ratio is taken against: the present weights', which costs a forward
    pass, or those of the engine that wrote them, whose ratio then holds the correction too"""
