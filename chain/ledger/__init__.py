"""Operations, the registry of identities, and admission: signed, executed and remembered."""
