"""The item index: which items are probably nearest to a vector, for catalogues too large to compare all of them."""
