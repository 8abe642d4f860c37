"""`quartet bench`: load for any server that speaks OpenAI's interface or Quartet's, and what its clients feel of it."""
