// A node of Centrifuge, the library that Centrifugo is made of, with its memory engine, for tests of echoring's client.
//
// It prints `listening HOST:PORT`. Commands are POST requests with parameters in the query:
//
//	/publish?channel=C           the body, with history and deltas where the channel has them
//	/subscribe?user=U&channel=C  a server-side subscription
//	/unsubscribe?user=U&channel=C&code=N
//	/disconnect?user=U&code=N
//	/outage                      ends all connections, and answers 503 to new ones
//	/recover                     ends the outage
//
// The first word of a channel says what it has: `kept` history of 16 messages and recovery, `deltas` the same with deltas, `members`
// presence with joins and leaves, `closed` no subscribers, `private` only those with a token. Connections without a token are of the
// user `anybody`. A token is `NAME` or `NAME:SECONDS`, after which it expires; `expired` and `forged` are refused.
//
// Never: anything that Centrifuge's library would not do by itself; this program only decides and configures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/centrifugal/centrifuge"
)

const (
	historyMessages = 16
	historyTime     = time.Minute
	messageBytesMax = 1 << 20
)

var errForged = errors.New("forged token")

// The user of a token, and when it expires: in seconds of Unix time, or 0.
func user(token string) (string, int64, error) {
	name, seconds, limited := strings.Cut(token, ":")
	switch {
	case token == "":
		return "anybody", 0, nil
	case name == "forged":
		return "", 0, errForged
	case name == "expired":
		return "", 0, centrifuge.ErrorTokenExpired
	case !limited:
		return name, 0, nil
	}
	number, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return "", 0, errForged
	}
	return name, time.Now().Unix() + number, nil
}

func kind(channel string) string {
	word, _, _ := strings.Cut(channel, ".")
	return word
}

func optionsOf(channel string) centrifuge.SubscribeOptions {
	word := kind(channel)
	options := centrifuge.SubscribeOptions{
		EnableRecovery: word == "kept" || word == "deltas",
		EmitPresence:   word == "members",
		EmitJoinLeave:  word == "members",
		PushJoinLeave:  word == "members",
	}
	if word == "deltas" {
		options.AllowedDeltaTypes = []centrifuge.DeltaType{centrifuge.DeltaTypeFossil}
	}
	return options
}

func publishOptions(channel string) []centrifuge.PublishOption {
	switch kind(channel) {
	case "kept":
		return []centrifuge.PublishOption{centrifuge.WithHistory(historyMessages, historyTime)}
	case "deltas":
		return []centrifuge.PublishOption{centrifuge.WithHistory(historyMessages, historyTime), centrifuge.WithDelta(true)}
	}
	return nil
}

func onConnecting(_ context.Context, event centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
	name, expireAt, err := user(event.Token)
	if errors.Is(err, errForged) {
		return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
	}
	if err != nil {
		return centrifuge.ConnectReply{}, err
	}
	credentials := &centrifuge.Credentials{UserID: name, ExpireAt: expireAt}
	return centrifuge.ConnectReply{Credentials: credentials, ClientSideRefresh: true}, nil
}

func onConnect(node *centrifuge.Node) func(*centrifuge.Client) {
	return func(client *centrifuge.Client) {
		client.OnSubscribe(func(event centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			options := optionsOf(event.Channel)
			word := kind(event.Channel)
			if word == "closed" || word == "private" && event.Token == "" {
				reply(centrifuge.SubscribeReply{}, centrifuge.ErrorPermissionDenied)
				return
			}
			if word == "private" {
				_, expireAt, err := user(event.Token)
				if err != nil {
					reply(centrifuge.SubscribeReply{}, centrifuge.ErrorTokenExpired)
					return
				}
				options.ExpireAt = expireAt
			}
			reply(centrifuge.SubscribeReply{Options: options, ClientSideRefresh: true}, nil)
		})
		client.OnSubRefresh(func(event centrifuge.SubRefreshEvent, reply centrifuge.SubRefreshCallback) {
			_, expireAt, err := user(event.Token)
			reply(centrifuge.SubRefreshReply{Expired: err != nil, ExpireAt: expireAt}, nil)
		})
		client.OnRefresh(func(event centrifuge.RefreshEvent, reply centrifuge.RefreshCallback) {
			_, expireAt, err := user(event.Token)
			reply(centrifuge.RefreshReply{Expired: err != nil, ExpireAt: expireAt}, nil)
		})
		client.OnPublish(func(event centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
			if kind(event.Channel) == "closed" {
				reply(centrifuge.PublishReply{}, centrifuge.ErrorPermissionDenied)
				return
			}
			result, err := node.Publish(event.Channel, event.Data, publishOptions(event.Channel)...)
			reply(centrifuge.PublishReply{Result: &result}, err)
		})
		client.OnPresence(func(_ centrifuge.PresenceEvent, reply centrifuge.PresenceCallback) {
			reply(centrifuge.PresenceReply{}, nil)
		})
		client.OnHistory(func(_ centrifuge.HistoryEvent, reply centrifuge.HistoryCallback) {
			reply(centrifuge.HistoryReply{}, nil)
		})
		client.OnRPC(func(event centrifuge.RPCEvent, reply centrifuge.RPCCallback) {
			if event.Method != "echo" {
				reply(centrifuge.RPCReply{}, centrifuge.ErrorMethodNotFound)
				return
			}
			reply(centrifuge.RPCReply{Data: event.Data}, nil)
		})
	}
}

// What ends a connection or a subscription has this code, and asks for no other behavior of the client than the code does.
func code(request *http.Request) (uint32, error) {
	number, err := strconv.ParseUint(request.URL.Query().Get("code"), 10, 32)
	return uint32(number), err
}

func commands(node *centrifuge.Node, away *atomic.Bool) map[string]func(*http.Request) error {
	return map[string]func(*http.Request) error{
		"publish": func(request *http.Request) error {
			body, err := io.ReadAll(io.LimitReader(request.Body, messageBytesMax))
			if err != nil {
				return err
			}
			channel := request.URL.Query().Get("channel")
			_, err = node.Publish(channel, body, publishOptions(channel)...)
			return err
		},
		"subscribe": func(request *http.Request) error {
			query := request.URL.Query()
			channel := query.Get("channel")
			return node.Subscribe(query.Get("user"), channel, centrifuge.WithRecovery(optionsOf(channel).EnableRecovery))
		},
		"unsubscribe": func(request *http.Request) error {
			query := request.URL.Query()
			number, err := code(request)
			if err != nil {
				return err
			}
			ended := centrifuge.Unsubscribe{Code: number, Reason: "told to"}
			return node.Unsubscribe(query.Get("user"), query.Get("channel"), centrifuge.WithCustomUnsubscribe(ended))
		},
		"disconnect": func(request *http.Request) error {
			number, err := code(request)
			if err != nil {
				return err
			}
			ended := centrifuge.Disconnect{Code: number, Reason: "told to"}
			return node.Disconnect(request.URL.Query().Get("user"), centrifuge.WithCustomDisconnect(ended))
		},
		"outage": func(*http.Request) error {
			away.Store(true)
			for _, client := range node.Hub().Connections() {
				client.Disconnect(centrifuge.DisconnectForceReconnect)
			}
			return nil
		},
		"recover": func(*http.Request) error {
			away.Store(false)
			return nil
		},
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelError, LogHandler: func(entry centrifuge.LogEntry) {
		log.Println(entry.Message, entry.Fields)
	}})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(onConnecting)
	node.OnConnect(onConnect(node))
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	var away atomic.Bool
	sessions := centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{Compression: true})
	http.HandleFunc("/connection/websocket", func(response http.ResponseWriter, request *http.Request) {
		if away.Load() {
			http.Error(response, "away", http.StatusServiceUnavailable)
			return
		}
		sessions.ServeHTTP(response, request)
	})
	for name, command := range commands(node, &away) {
		http.HandleFunc("POST /"+name, func(response http.ResponseWriter, request *http.Request) {
			if err := command(request); err != nil {
				http.Error(response, err.Error(), http.StatusBadRequest)
			}
		})
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
