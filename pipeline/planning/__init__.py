"""How much of everything a load needs, from measured costs, and a simulation of what scaling and admission make of it."""
