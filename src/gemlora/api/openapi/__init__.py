"""The OpenAPI document: what this server accepts and answers, decisions included."""
