"""An example of a function that rules can call: takes out who the patient is."""
