"""Skeletons and meshes of labelled objects, by kimimaro and zmesh."""
