"""Images in: where they are, their formats, TIFFs, georeferences; generated scenes."""
