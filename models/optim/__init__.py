"""How weights are trained: optimisers, averages, arithmetic, compiling, memory and several processes."""
