"""Language models: chats, tokens, finding and running them."""
