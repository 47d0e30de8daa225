package edgeproxy

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain allows for the half second that net/http waits before it closes a connection with bytes unread.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
