"""An OpenFaaS provider that runs functions as local processes."""
