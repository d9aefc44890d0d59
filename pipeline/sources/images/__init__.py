"""PNG, JPEG and TIFF files, and checks of JPEG and JPEG 2000 codestreams."""
