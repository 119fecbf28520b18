"""What stands beside the voxels of a volume: segment properties, meshes, skeletons, annotations."""
