"""Job files: their sections, how they are loaded, and what is said of a wrong one."""

from rayalign.config.annotators import *  # noqa: F403
from rayalign.config.answers import *  # noqa: F403
from rayalign.config.best_of import *  # noqa: F403
from rayalign.config.cluster_file import ClusterFile as ClusterFile
from rayalign.config.cluster_file import DeviceConfig as DeviceConfig
from rayalign.config.cluster_file import NodeConfig as NodeConfig
from rayalign.config.cluster_file import load_cluster as load_cluster
from rayalign.config.data_sections import *  # noqa: F403
from rayalign.config.evolve import *  # noqa: F403
from rayalign.config.explain import explain as explain
from rayalign.config.explain import nearest as nearest
from rayalign.config.explain import words as words
from rayalign.config.job import LoadedJob as LoadedJob
from rayalign.config.job import job_from_mapping as job_from_mapping
from rayalign.config.job import load_job as load_job
from rayalign.config.model_stages import *  # noqa: F403
from rayalign.config.overlap import *  # noqa: F403
from rayalign.config.preferences import *  # noqa: F403
from rayalign.config.pretrain import *  # noqa: F403
from rayalign.config.references import *  # noqa: F403
from rayalign.config.rewards import *  # noqa: F403
from rayalign.config.sections import *  # noqa: F403
from rayalign.config.served_policy import *  # noqa: F403
from rayalign.config.stage_section import *  # noqa: F403
from rayalign.config.stages import *  # noqa: F403
