"""Training recipes: Lightning modules, data modules, losses and one YAML per trained model."""
