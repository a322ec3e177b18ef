package main

import (
	"os"
	"strings"
	"time"

	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

// onNats publishes with an acknowledgement from JetStream and reads by a durable consumer: the package that Watermill
// recommends for production, one message at a time, which keeps the order as long as nothing crashes.
var onNats = variant{
	forwarded: true,
	prepare: func() error {
		client, err := nats.Connect(natsURL())
		if err != nil {
			return err
		}
		defer client.Close()
		streams, err := client.JetStream()
		if err != nil {
			return err
		}
		_, err = streams.AddStream(&nats.StreamConfig{Name: topic, Subjects: []string{topic}, Storage: nats.FileStorage})
		return err
	},
	publisher: func() (message.Publisher, error) {
		return wmnats.NewPublisher(wmnats.PublisherConfig{
			URL:       natsURL(),
			JetStream: wmnats.JetStreamConfig{TrackMsgId: true},
		}, logger)
	},
	subscriber: func() (message.Subscriber, error) {
		return wmnats.NewSubscriber(wmnats.SubscriberConfig{
			URL:              natsURL(),
			QueueGroupPrefix: "worker",
			AckWaitTimeout:   10 * time.Second,
			JetStream: wmnats.JetStreamConfig{
				DurablePrefix:    "worker",
				SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
			},
		}, logger)
	},
}

// natsURL is the engine's, without the options that only Millstream reads.
func natsURL() string {
	url, _, _ := strings.Cut(os.Getenv("PEER_NATS"), "?")
	return url
}
