"""Making the files that run: adapters, merged bases, classifiers, and the kit's recipe."""
