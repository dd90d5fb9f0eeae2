"""The adapters that come with gemlora for the starter weights, and how they get onto the shelf."""
