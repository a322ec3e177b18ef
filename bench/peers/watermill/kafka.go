package main

import (
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

const partitions = 8

// onKafka publishes with acks=all under the event's key, and reads in a consumer group from the beginning.
var onKafka = variant{
	forwarded: true,
	prepare: func() error {
		admin, err := sarama.NewClusterAdmin(brokers(), overwritten(kafka.DefaultSaramaSyncPublisherConfig()))
		if err != nil {
			return err
		}
		defer admin.Close()
		return admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false)
	},
	publisher: func() (message.Publisher, error) {
		config := overwritten(kafka.DefaultSaramaSyncPublisherConfig())
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
		return kafka.NewPublisher(kafka.PublisherConfig{
			Brokers:               brokers(),
			Marshaler:             byKey(),
			OverwriteSaramaConfig: config,
		}, logger)
	},
	subscriber: func() (message.Subscriber, error) {
		config := overwritten(kafka.DefaultSaramaSubscriberConfig())
		config.Consumer.Offsets.Initial = sarama.OffsetOldest
		return kafka.NewSubscriber(kafka.SubscriberConfig{
			Brokers:               brokers(),
			Unmarshaler:           byKey(),
			ConsumerGroup:         topic,
			OverwriteSaramaConfig: config,
		}, logger)
	},
}

func byKey() kafka.MarshalerUnmarshaler {
	return kafka.NewWithPartitioningMarshaler(func(_ string, sent *message.Message) (string, error) {
		return sent.Metadata.Get("key"), nil
	})
}

// overwritten speaks a protocol that Kafka 4 still answers.
func overwritten(config *sarama.Config) *sarama.Config {
	config.Version = sarama.V2_8_0_0
	return config
}

func brokers() []string {
	hosts := strings.TrimPrefix(os.Getenv("PEER_KAFKA"), "kafka://")
	hosts, _, _ = strings.Cut(hosts, "?")
	return strings.Split(hosts, ",")
}
