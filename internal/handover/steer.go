package handover

// Steering says which packets of a port with two sockets are the second's. Those that are not QUIC's
// always are: they belong to no connection.
type Steering struct {
	Mark        Mark // at the beginning of the connection id
	MarkedFirst bool // marked packets go to the first socket and all others to the second; else the other way
}
