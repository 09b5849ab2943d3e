//! Which server of a backend a request or connection of the proxy goes to. Pure: no I/O,
//! no clock of its own, no HTTP; it knows the model.
