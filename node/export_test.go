package node

// EchoGuest is a guest that answers with the request.
func EchoGuest() []byte { return echo() }
