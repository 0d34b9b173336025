"""One folder is one scaling unit: service.py is its far side, client.py its near side, the rest pure logic."""
