// gorilla/websocket as a peer: an echo, or with -broadcast a hub for each path, whose messages are prepared once and
// written to all others who asked for it.
//
//	gorilla [-broadcast] [-compress]     prints `listening ws://127.0.0.1:PORT ...` once it accepts connections
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

const messageBytesMax = 16 << 20

// What a subscriber may be behind before it is closed, in messages.
const behindMax = 4096

var upgrader = websocket.Upgrader{
	CheckOrigin: func(*http.Request) bool { return true },
	// Buffers for writing are shared, as its documentation advises for many connections.
	WriteBufferPool: &sync.Pool{},
}

func main() {
	broadcast := flag.Bool("broadcast", false, "broadcast instead of echoing")
	flag.BoolVar(&upgrader.EnableCompression, "compress", false, "permessage-deflate")
	flag.Parse()
	// Go's sockets have TCP_NODELAY unless told otherwise, and the backlog of the machine.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	fmt.Printf("listening ws://%s driver=epoll shards=1 pid=%d\n", listener.Addr(), os.Getpid())
	handle := echo
	if *broadcast {
		handle = (&hub{topics: map[string]*topic{}}).serve
	}
	err = http.Serve(listener, http.HandlerFunc(handle))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func echo(writer http.ResponseWriter, request *http.Request) {
	conn, err := upgrader.Upgrade(writer, request, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetReadLimit(messageBytesMax)
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if err := conn.WriteMessage(kind, message); err != nil {
			return
		}
	}
}

// hub has the topics.
type hub struct {
	mutex  sync.Mutex
	topics map[string]*topic
}

type topic struct {
	mutex   sync.Mutex
	members map[*member]struct{}
}

// member is a subscriber. What it is sent goes through a channel to its own goroutine, the only one that writes to it.
type member struct {
	waiting chan *websocket.PreparedMessage
}

// serve subscribes before the 101 leaves, so that whoever has it gets everything from then on.
func (h *hub) serve(writer http.ResponseWriter, request *http.Request) {
	own := &member{waiting: make(chan *websocket.PreparedMessage, behindMax)}
	name := request.URL.Path
	joined := h.join(name, own)
	defer h.leave(name, joined, own)
	conn, err := upgrader.Upgrade(writer, request, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetReadLimit(messageBytesMax)
	go write(conn, own.waiting)
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		prepared, err := websocket.NewPreparedMessage(kind, message)
		if err != nil {
			return
		}
		joined.publish(own, prepared)
	}
}

// write ends with its channel, and ends the connection then: its member has left, or fell too far behind.
func write(conn *websocket.Conn, waiting <-chan *websocket.PreparedMessage) {
	defer conn.Close()
	for message := range waiting {
		if err := conn.WritePreparedMessage(message); err != nil {
			return
		}
	}
}

func (h *hub) join(name string, own *member) *topic {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	found := h.topics[name]
	if found == nil {
		found = &topic{members: map[*member]struct{}{}}
		h.topics[name] = found
	}
	found.mutex.Lock()
	defer found.mutex.Unlock()
	found.members[own] = struct{}{}
	return found
}

func (h *hub) leave(name string, left *topic, own *member) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	left.mutex.Lock()
	defer left.mutex.Unlock()
	left.drop(own)
	if len(left.members) == 0 && h.topics[name] == left {
		delete(h.topics, name)
	}
}

// drop ends a member's channel, once.
func (t *topic) drop(own *member) {
	if _, there := t.members[own]; there {
		delete(t.members, own)
		close(own.waiting)
	}
}

func (t *topic) publish(from *member, message *websocket.PreparedMessage) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	for other := range t.members {
		if other == from {
			continue
		}
		select {
		case other.waiting <- message:
		default:
			t.drop(other)
		}
	}
}
