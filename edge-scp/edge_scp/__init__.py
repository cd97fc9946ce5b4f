"""The edge: receives instances, keeps them on disk, then uploads and announces them."""
