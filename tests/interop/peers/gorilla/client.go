package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const checkTimeMax = 20 * time.Second

// A message that is longer than the buffer leaves in frames of its size, wherever characters end.
const fragmentBytes = 100

type job struct {
	URL    string  `json:"url"`
	Checks []check `json:"checks"`
}

type check struct {
	Name         string   `json:"name"`
	Path         string   `json:"path"`
	Subprotocols []string `json:"subprotocols"`
	Subprotocol  *string  `json:"subprotocol"`
	Compress     bool     `json:"compress"`
	Compressed   *bool    `json:"compressed"`
	Refused      int      `json:"refused"`
	Steps        []step   `json:"steps"`
}

// A step is a list of its name and its arguments.
type step []json.RawMessage

type result struct {
	Name    string `json:"name"`
	Problem string `json:"problem,omitempty"`
}

// What the connection brought: a message, a pong, or its end.
type event struct {
	kind int // An opcode; CloseMessage for the end.
	data string
	err  error
}

type session struct {
	conn   *websocket.Conn
	events chan event
}

// runClient runs checks of matrix.py from the standard input, with gorilla as the client.
func runClient() error {
	var work job
	if err := json.NewDecoder(os.Stdin).Decode(&work); err != nil {
		return err
	}
	reports := json.NewEncoder(os.Stdout)
	for _, wanted := range work.Checks {
		outcome := result{Name: wanted.Name}
		if err := wanted.run(work.URL); err != nil {
			outcome.Problem = err.Error()
		}
		if err := reports.Encode(outcome); err != nil {
			return err
		}
	}
	return nil
}

func (wanted check) run(url string) error {
	dialer := websocket.Dialer{Subprotocols: wanted.Subprotocols, EnableCompression: wanted.Compress}
	if wanted.has("fragments") {
		dialer.WriteBufferSize = fragmentBytes
	}
	conn, response, err := dialer.Dial(url+wanted.Path, nil)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) && wanted.Refused != 0 {
			return same(response.StatusCode, wanted.Refused, "status")
		}
		return err
	}
	defer conn.Close()
	if wanted.Refused != 0 {
		return fmt.Errorf("let in instead of refused with %d", wanted.Refused)
	}
	if wanted.Subprotocol != nil && conn.Subprotocol() != *wanted.Subprotocol {
		return same(conn.Subprotocol(), *wanted.Subprotocol, "subprotocol")
	}
	extensions := response.Header.Get("Sec-Websocket-Extensions")
	compressed := strings.Contains(extensions, "permessage-deflate")
	if wanted.Compressed != nil && compressed != *wanted.Compressed {
		return same(compressed, *wanted.Compressed, "compressed")
	}
	deadline := time.Now().Add(checkTimeMax)
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	return newSession(conn).runSteps(wanted.Steps)
}

// has tells whether there is a step of this name.
func (wanted check) has(name string) bool {
	for _, one := range wanted.Steps {
		if string(one[0]) == `"`+name+`"` {
			return true
		}
	}
	return false
}

// newSession reads from the connection until its end.
func newSession(conn *websocket.Conn) *session {
	// More than any check brings, so that the reader ends even if nobody asks for what it read.
	s := &session{conn, make(chan event, 1000)}
	conn.SetPongHandler(func(payload string) error {
		s.events <- event{kind: websocket.PongMessage, data: payload}
		return nil
	})
	go func() {
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				s.events <- event{kind: websocket.CloseMessage, err: err}
				return
			}
			s.events <- event{kind: kind, data: string(data)}
		}
	}()
	return s
}

func (s *session) runSteps(steps []step) error {
	for _, one := range steps {
		ended, err := s.step(one)
		if ended || err != nil {
			return err
		}
	}
	return s.close(websocket.CloseNormalClosure, "")
}

// step runs one; whether it ended the connection.
func (s *session) step(one step) (bool, error) {
	var name string
	if err := one.argument(0, &name); err != nil {
		return false, err
	}
	switch name {
	case "send":
		kind, data, err := one.message()
		if err != nil {
			return false, err
		}
		return false, s.conn.WriteMessage(kind, data)
	case "fragments":
		return false, s.fragments(one)
	case "expect":
		kind, data, err := one.message()
		if err != nil {
			return false, err
		}
		return false, s.expect(kind, string(data))
	case "ping":
		var payload string
		if err := one.argument(1, &payload); err != nil {
			return false, err
		}
		if err := s.conn.WriteControl(websocket.PingMessage, []byte(payload), time.Time{}); err != nil {
			return false, err
		}
		return false, s.expect(websocket.PongMessage, payload)
	case "close":
		var code int
		var reason string
		if err := errorOf(one.argument(1, &code), one.argument(2, &reason)); err != nil {
			return false, err
		}
		return true, s.close(code, reason)
	case "expect_close":
		var code int
		var reason *string
		if err := errorOf(one.argument(1, &code), one.argument(2, &reason)); err != nil {
			return false, err
		}
		return true, s.expectClose(code, reason)
	}
	return false, fmt.Errorf("unknown step %s", name)
}

// fragments sends one message, in as many frames as the buffer makes of it.
func (s *session) fragments(one step) error {
	var kind string
	var contents []json.RawMessage
	if err := errorOf(one.argument(1, &kind), one.argument(2, &contents)); err != nil {
		return err
	}
	writer, err := s.conn.NextWriter(opcode(kind))
	if err != nil {
		return err
	}
	for _, content := range contents {
		data, err := expand(kind, content)
		if err != nil {
			return err
		}
		if _, err := writer.Write(data); err != nil {
			return err
		}
	}
	return writer.Close()
}

func (s *session) expect(kind int, data string) error {
	found := <-s.events
	if found.err != nil {
		return found.err
	}
	return errorOf(same(found.kind, kind, "opcode"), same(found.data, data, "payload"))
}

func (s *session) close(code int, reason string) error {
	data := websocket.FormatCloseMessage(code, reason)
	if err := s.conn.WriteControl(websocket.CloseMessage, data, time.Time{}); err != nil {
		return err
	}
	return s.expectClose(code, nil)
}

func (s *session) expectClose(code int, reason *string) error {
	found := <-s.events
	var closed *websocket.CloseError
	if !errors.As(found.err, &closed) {
		return fmt.Errorf("%+v instead of a close", found)
	}
	if reason != nil && *reason != closed.Text {
		return same(closed.Text, *reason, "close reason")
	}
	return same(closed.Code, code, "close code")
}

func (one step) argument(index int, value interface{}) error {
	if index >= len(one) {
		return fmt.Errorf("argument %d is missing", index)
	}
	return json.Unmarshal(one[index], value)
}

func (one step) message() (int, []byte, error) {
	var kind string
	var content json.RawMessage
	if err := errorOf(one.argument(1, &kind), one.argument(2, &content)); err != nil {
		return 0, nil, err
	}
	data, err := expand(kind, content)
	return opcode(kind), data, err
}

func opcode(kind string) int {
	if kind == "text" {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}

func expand(kind string, content json.RawMessage) ([]byte, error) {
	var unit string
	var times int
	if err := json.Unmarshal(content, &[]interface{}{&unit, &times}); err != nil {
		return nil, err
	}
	data := []byte(unit)
	if kind == "binary" {
		bytes, err := hex.DecodeString(unit)
		if err != nil {
			return nil, err
		}
		data = bytes
	}
	return []byte(strings.Repeat(string(data), times)), nil
}

// same is no error, or says what was found instead of what was wanted.
func same(found, wanted interface{}, what string) error {
	if found == wanted {
		return nil
	}
	return fmt.Errorf("%s: %.70q instead of %.70q", what, fmt.Sprint(found), fmt.Sprint(wanted))
}

// errorOf gives the first error.
func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
