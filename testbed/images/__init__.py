"""Node images: recipes into disks, the shared disk, and each node's seed disk."""

from testbed.images.base import base_image, planned_base
from testbed.images.build import build_image, image_key, planned_image
from testbed.images.nocloud import nocloud_files
from testbed.images.node import CPU_FEATURES, CPU_MODEL, NodeImage, kernel_arguments
from testbed.images.recipe import Recipe, RecipeFolder, load_recipe
from testbed.images.seed import MANAGEMENT_MAC, MESH_MAC, WORKLOAD_MAC, NodeSeed, mac_address, seed_iso, write_seed
from testbed.images.shared import build_shared, shared_key

__all__ = [
    "CPU_FEATURES",
    "CPU_MODEL",
    "MANAGEMENT_MAC",
    "MESH_MAC",
    "WORKLOAD_MAC",
    "NodeImage",
    "NodeSeed",
    "Recipe",
    "RecipeFolder",
    "base_image",
    "build_image",
    "build_shared",
    "image_key",
    "kernel_arguments",
    "load_recipe",
    "mac_address",
    "nocloud_files",
    "planned_base",
    "planned_image",
    "seed_iso",
    "shared_key",
    "write_seed",
]
