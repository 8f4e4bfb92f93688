"""What a servable recurrent model is: manifest, repository, arena compiler."""
