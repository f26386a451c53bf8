//! Simulated hardware: processors, memory with key IDs, TLB epochs, key tables.
