package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
)

func newInvoke(t *target) *cobra.Command {
	var method, data, path string
	var headers []string
	c := &cobra.Command{
		Use: "invoke FUNCTION", Short: "Send a request to a function through a node, without DNS", Args: exactly("FUNCTION"),
		Long: "Invoke asks a node to route a request as if a client had sent it to the function's first route. It\n" +
			"prints the response's body on standard output, and its status and receipt on standard error. It exits\n" +
			"with 1 when the status is 400 or more.",
		Example: "  perigee invoke hello\n  perigee invoke hello -p '/orders?id=7' -H 'Perigee-Prefer-Region: fra' -d @order.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, done, err := t.person(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			r, err := newRequest(cmd, method, path, data, headers)
			if err != nil {
				return err
			}
			s, _, err := p.Function(cmd.Context(), args[0]) // a node's own 404 would look like the function's
			if err != nil {
				return err
			}
			if len(s.URLs) == 0 {
				return fmt.Errorf("%s has no route of its own: other functions claimed them first: `perigee show %s` names them", s.Name, s.Name)
			}
			resp, err := p.Invoke(cmd.Context(), args[0], r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return printResponse(t, cmd, resp)
		},
	}
	f := c.Flags()
	f.StringVarP(&method, "method", "X", "", "`METHOD` (default GET, or POST with --data)")
	f.StringVarP(&data, "data", "d", "", "request `BODY`; \"@FILE\" reads a file, \"@-\" standard input")
	f.StringVarP(&path, "path", "p", "/", "`PATH` and query, below the function's first route")
	f.StringArrayVarP(&headers, "header", "H", nil, "`HEADER`, like \"Name: value\"; may be given several times")
	return c
}

func newRequest(cmd *cobra.Command, method, path, data string, headers []string) (*http.Request, error) {
	var body io.Reader
	if data != "" {
		body = strings.NewReader(data)
		if method == "" {
			method = http.MethodPost
		}
	}
	if name, ok := strings.CutPrefix(data, "@"); ok {
		body = cmd.InOrStdin()
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, fmt.Errorf("read the body: %w", err)
			}
			body = f // closed by the transport
		}
	}
	r, err := http.NewRequestWithContext(cmd.Context(), method, "http://perigee/"+strings.TrimPrefix(path, "/"), body)
	if err != nil {
		return nil, usageError{err}
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, usagef("header %q: want \"Name: value\"", h)
		}
		r.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return r, nil
}

// response is what `perigee invoke --json` prints.
type response struct {
	Status  int         `json:"status"`
	Header  http.Header `json:"header"`
	Receipt string      `json:"receipt,omitempty"`
	Body    string      `json:"body"`
	Base64  bool        `json:"base64,omitempty"` // the body is no text and stands in base64
}

func printResponse(t *target, cmd *cobra.Command, resp *http.Response) error {
	receipt := resp.Header.Get(edgeproxy.ReceiptHeader)
	if t.json {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return cutOff(perigee.Bytes(len(b)), err)
		}
		if last := resp.Trailer.Get(edgeproxy.ReceiptHeader); last != "" {
			receipt = last
		}
		out := response{Status: resp.StatusCode, Header: resp.Header, Receipt: receipt, Body: string(b)}
		if !utf8.Valid(b) {
			out.Body, out.Base64 = base64.StdEncoding.EncodeToString(b), true
		}
		if err := printJSON(cmd.OutOrStdout(), out); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d %s\n", resp.StatusCode, http.StatusText(resp.StatusCode))
		if receipt != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "receipt: %s\n", receipt)
		}
		if n, err := io.Copy(cmd.OutOrStdout(), resp.Body); err != nil {
			return cutOff(perigee.Bytes(n), err)
		}
		if last := resp.Trailer.Get(edgeproxy.ReceiptHeader); last != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "receipt at the end: %s\n", last)
		}
	}
	if resp.StatusCode >= 400 {
		return errReported
	}
	return nil
}

func cutOff(after perigee.Bytes, err error) error {
	return fmt.Errorf("the response was cut off after %s: %w: the function failed on the way, or answered more than max_response in node.toml allows; the log of the node that ran it says which", size(after), err)
}
