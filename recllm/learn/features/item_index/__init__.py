"""The item index: item vectors to the items nearest to a query; exact by default, four others for large catalogues."""
