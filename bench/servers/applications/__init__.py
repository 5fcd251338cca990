"""What runs behind the servers: each written as its framework's documentation would."""
