package guest

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// TestContentType compares with net/http over texts, the beginnings of all formats that it knows, and
// random bytes.
func TestContentType(t *testing.T) {
	list := []string{"", " ", "hello", "{\"a\": 1}", "  <html>", "<!DOCTYPE html>", "<?xml", "text <html>", "%PDF-1", "%!PS-Adobe-", "BM", "GIF87a", "GIF89a",
		"RIFFabcdWEBPVP", "RIFFabcdWAVE", "FORMabcdAIFF", "ID3", "OggS\x00", "MThd\x00\x00\x00\x06", "OTTO", "ttcf", "wOFF", "wOF2", "PK\x03\x04", "Rar!\x1a\x07\x00",
		"\x00asm", "\xef\xbb\xbftext", "grüße", "a\x00b", "\x89PNG\r\n\x1a\n", strings.Repeat("x", 600), strings.Repeat("x", 512) + "\x00", "\n\n\thello", "abcdftypmp41"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		b := make([]byte, 1+rng.IntN(40))
		for i := range b {
			b[i] = " \t\n<%BFGIMOPRtwhtml!>xyz{}\x01"[rng.IntN(27)]
		}
		list = append(list, string(b))
	}
	for _, s := range list {
		if got, want := contentType([]byte(s)), http.DetectContentType([]byte(s)); got != want {
			t.Errorf("%.40q: %s, want %s", s, got, want)
		}
	}
}
