package runtime

import (
	"bytes"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestTrackerFindsAll writes to more ranges of frames than the kernel reports at once, in the image and
// behind its end, and checks that all are restored.
func TestTrackerFindsAll(t *testing.T) {
	tracker, err := openTracker()
	if err != nil {
		t.Skipf("this kernel can't tell: %v", err)
	}
	defer tracker.close()
	want := make([]byte, 2000*frame/pageBytes*pageBytes)
	for at := 0; at < len(want); at += 3 * frame {
		want[at] = byte(at>>12) | 1
	}
	img, err := readyImage(want)
	if err != nil {
		t.Fatal(err)
	}
	defer img.close()
	b := &budget{free: 1 << 30, taken: prometheus.NewGauge(prometheus.GaugeOpts{Name: "taken"}), dropIdle: func() {}}
	m, err := newMemory(1<<26, 0, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.release()
	if err := m.space.load(img); err != nil {
		t.Fatal(err)
	}
	got := m.Reallocate(uint64(len(want) + 600*frame))
	want = append(want, make([]byte, 600*frame)...)
	for turn := range 3 {
		for at := turn; at < len(got); at += 2 * frame {
			got[at] = 0xaa
		}
		if bytes.Equal(got, want) {
			t.Fatal("nothing was written")
		}
		if err := tracker.restore(got, img); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("turn %d: the memory is not what it was", turn)
		}
	}
}
