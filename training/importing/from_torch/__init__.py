"""Models out of a torch state_dict."""
