// Command gorilla is gorilla/websocket as the client that runs checks, or as the server that they are run against.
package main

import (
	"errors"
	"log"
	"os"
)

func main() {
	var mode string
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	var err error
	switch mode {
	case "client":
		err = runClient()
	case "server":
		err = runServer(len(os.Args) > 2 && os.Args[2] == "--compress")
	case "lines":
		err = runLines(os.Args[2])
	default:
		err = errors.New("usage: gorilla client | gorilla server [--compress] | gorilla lines URL")
	}
	if err != nil {
		log.Fatal(err)
	}
}
