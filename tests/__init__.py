"""rawfnf against real peers: what they got, and how it ended."""
