"""What is trained on: text, labelled sequences and series, read from files or made."""
