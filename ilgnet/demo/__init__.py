"""The demo set: painted or spoilt photos with synthetic labels."""
