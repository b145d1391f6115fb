package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/gorilla/websocket"
)

// runLines prints what it hears, and sends each line that it reads. It trusts the authorities of SSL_CERT_FILE.
func runLines(url string) error {
	socket, _, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		return err
	}
	fmt.Println("open")
	go func() {
		for {
			_, data, err := socket.ReadMessage()
			if err != nil {
				fmt.Println("end", err)
				return
			}
			fmt.Printf("message %s\n", data)
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := socket.WriteMessage(websocket.TextMessage, lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}
