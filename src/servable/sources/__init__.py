"""Sources: who says which versions of which servables are aspired."""
