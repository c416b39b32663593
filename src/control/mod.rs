//! Messages on the unix socket, server and client.
