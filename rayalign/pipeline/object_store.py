"""How large Ray's object store of a local session must be, from the plan."""

from __future__ import annotations

from rayalign.config import ClusterConfig, Job
from rayalign.pipeline.kind import shape_in
from rayalign.pipeline.needs import GENERATOR
from rayalign.pipeline.plan import Plan, StagePlan, plan
from rayalign.weights.buckets import BUCKET_BYTES

BASE_BYTES = 512 << 20
"""rows, rollouts and batches of one iteration, with room to spare [bytes]"""
BUCKETS_IN_FLIGHT = 4
"""two on the sending side and two on the receiving side of a weight transfer"""
NUMBER_BYTES = 4
"""of one weight in the widest precision [bytes]"""


def object_store_bytes(job: Job, planned: Plan) -> int:
    """What the job names, else room for the largest weight transfer of any stage beside the batches [bytes].

    Ray writes to disk what finds no room in the store, which makes every publication many times slower.
    """
    if job.cluster.object_store is not None:
        return job.cluster.object_store
    transfers = [_transfer_bytes(job, stage) for stage in planned.stages]
    needed = BASE_BYTES + max(transfers, default=0)
    if planned.machine is None:
        return needed
    # A store that is larger than the shared memory would lie on disk as a whole.
    return max(BASE_BYTES, min(needed, int(0.9 * planned.machine.shared_memory)))


def session_config(job: Job) -> ClusterConfig:
    """The job's cluster section with the size of the object store filled in."""
    size = object_store_bytes(job, plan(job))
    return job.cluster.model_copy(update={"object_store": size})


def _transfer_bytes(job: Job, stage: StagePlan) -> int:
    """Buckets in flight while the stage publishes its policy; 0 where it publishes none [bytes]."""
    models = {role.role: role.model for role in stage.roles if role.trained or role.role == GENERATOR}
    if GENERATOR not in models or "policy" not in models:
        return 0
    shape = shape_in(job, models["policy"])
    if shape is None:
        return BUCKETS_IN_FLIGHT * BUCKET_BYTES
    whole_model = NUMBER_BYTES * shape.parameters
    largest_tensor = NUMBER_BYTES * shape.vocabulary * shape.hidden
    bucket = min(whole_model, max(BUCKET_BYTES, largest_tensor))
    return BUCKETS_IN_FLIGHT * bucket
