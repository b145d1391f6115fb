package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

const messageBytesMax = 1 << 20

// server is gorilla with the paths that programs.py tells of.
type server struct {
	compress bool
}

func runServer(compress bool) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)
	return http.Serve(listener, server{compress})
}

func (s server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number := func(name string) int {
		value, _ := strconv.Atoi(query.Get(name))
		return value
	}
	switch r.URL.Path {
	case "/echo", "/close", "/fragment", "/ping":
	case "/reject":
		http.Error(w, "refused", number("status"))
		return
	default:
		http.NotFound(w, r)
		return
	}
	upgrader := websocket.Upgrader{Subprotocols: []string{"chat"}, EnableCompression: s.compress}
	if r.URL.Path == "/fragment" {
		// What is longer leaves in frames of this size.
		upgrader.WriteBufferSize = fragmentBytes
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetReadLimit(messageBytesMax)
	conn.SetPongHandler(func(payload string) error {
		return conn.WriteMessage(websocket.TextMessage, []byte("pong: "+payload))
	})
	switch r.URL.Path {
	case "/ping":
		err = conn.WriteControl(websocket.PingMessage, []byte("are you there?"), time.Time{})
	case "/close":
		data := websocket.FormatCloseMessage(number("code"), query.Get("reason"))
		err = conn.WriteControl(websocket.CloseMessage, data, time.Time{})
	}
	for err == nil {
		err = echo(conn)
	}
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		// The peer is told what it did wrong, so its own end is waited for.
		drain(conn)
	}
}

func echo(conn *websocket.Conn) error {
	kind, data, err := conn.ReadMessage()
	if err != nil {
		return err
	}
	writer, err := conn.NextWriter(kind)
	if err != nil {
		return err
	}
	if _, err := writer.Write(data); err != nil {
		return err
	}
	return writer.Close()
}

// drain reads what still comes, so that closing the socket does not reset the connection before the peer has read.
func drain(conn *websocket.Conn) {
	raw := conn.UnderlyingConn()
	if half, ok := raw.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	_ = raw.SetReadDeadline(time.Now().Add(checkTimeMax))
	buffer := make([]byte, 65536)
	for {
		if _, err := raw.Read(buffer); err != nil {
			return
		}
	}
}
