"""What Sphinx makes a site of these pages with: `make docs`."""

project = "wine-drift"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "wine-drift"
html_copy_source = False
html_show_copyright = False
