"""What a person sees of a pyramid: pictures, plots, notebooks, and Neuroglancer."""
