// Watermill at the work of bench/peers: on PostgreSQL, and with its forwarder to NATS or Kafka.
//
//	watermill sql|nats|kafka provision|produce|relay|work [flags as in workload.py]
//
// The event is published on the business row's own transaction. On `sql` the effect is written in the subscriber's
// transaction, on the others in one of its own before the message is acknowledged.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	keys       = 1000
	inFlight   = 50
	pool       = 16
	eventBytes = 200
	poll       = 5 * time.Millisecond
)

type event struct {
	Key  string `json:"key"`
	N    int    `json:"n"`
	Text string `json:"text"`
}

type task struct {
	events, first int
	seconds, rate float64
}

// variant says where events travel between the producer and the worker.
type variant struct {
	forwarded  bool
	publisher  func() (message.Publisher, error)
	subscriber func() (message.Subscriber, error)
	prepare    func() error
}

var (
	topic    = os.Getenv("PEER_TOPIC")
	logger   = watermill.NewStdLogger(false, false)
	schema   = sql.DefaultPostgreSQLSchema{}
	offsets  = sql.DefaultPostgreSQLOffsetsAdapter{}
	variants = map[string]variant{"sql": {}, "nats": onNats, "kafka": onKafka}
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: watermill sql|nats|kafka provision|produce|relay|work")
	}
	chosen, known := variants[os.Args[1]]
	if !known {
		log.Fatalf("no variant is called %q", os.Args[1])
	}
	var asked task
	flags := flag.NewFlagSet(os.Args[2], flag.ExitOnError)
	flags.IntVar(&asked.events, "events", 0, "")
	flags.IntVar(&asked.first, "first", 0, "")
	flags.Float64Var(&asked.seconds, "seconds", 60, "")
	flags.Float64Var(&asked.rate, "rate", 0, "")
	flags.Int("per-tx", 1, "")
	if err := flags.Parse(os.Args[3:]); err != nil {
		log.Fatal(err)
	}
	roles := map[string]func(context.Context, variant, task) error{
		"provision": provision, "produce": produce, "relay": relay, "work": work,
	}
	role, known := roles[os.Args[2]]
	if !known {
		log.Fatalf("no role is called %q", os.Args[2])
	}
	if err := role(context.Background(), chosen, asked); err != nil {
		log.Fatal(err)
	}
}

func connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(os.Getenv("PEER_POSTGRESQL"))
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = pool, pool
	return pgxpool.NewWithConfig(ctx, config)
}

// sqlTopic is the table that the business transaction writes to.
func (v variant) sqlTopic() string {
	if v.forwarded {
		return "outbox"
	}
	return "events"
}

func sqlSubscriber(db *pgxpool.Pool) (*sql.Subscriber, error) {
	return sql.NewSubscriber(sql.BeginnerFromPgx(db), sql.SubscriberConfig{
		SchemaAdapter:  schema,
		OffsetsAdapter: offsets,
		PollInterval:   poll,
	}, logger)
}

func provision(ctx context.Context, v variant, _ task) error {
	db, err := connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	subscriber, err := sqlSubscriber(db)
	if err != nil {
		return err
	}
	if err := subscriber.SubscribeInitialize(v.sqlTopic()); err != nil {
		return err
	}
	if v.prepare == nil {
		return nil
	}
	return v.prepare()
}

func produce(ctx context.Context, v variant, asked task) error {
	db, err := connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	began, cpu := time.Now(), processorTime()
	var lock sync.Mutex
	given := 0
	next := func() (int, int, bool) {
		lock.Lock()
		defer lock.Unlock()
		if given >= asked.events || time.Since(began).Seconds() > asked.seconds {
			return 0, 0, false
		}
		given++
		return given - 1, asked.first + given - 1, true
	}
	failed := make(chan error, inFlight)
	for range inFlight {
		go func() {
			for {
				place, n, more := next()
				if !more {
					failed <- nil
					return
				}
				if asked.rate > 0 {
					time.Sleep(time.Until(began.Add(time.Duration(float64(place) / asked.rate * float64(time.Second)))))
				}
				if err := one(ctx, v, db, n); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	for range inFlight {
		if err := <-failed; err != nil {
			return err
		}
	}
	report, err := json.Marshal(map[string]any{
		"events": given, "seconds": time.Since(began).Seconds(), "cpu_seconds": processorTime() - cpu,
	})
	fmt.Println(string(report))
	return err
}

// one writes a business row and its event in one transaction.
func one(ctx context.Context, v variant, db *pgxpool.Pool, n int) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		key := fmt.Sprintf("key-%04d", n%keys)
		if _, err := tx.Exec(ctx, "INSERT INTO business (key, n) VALUES ($1, $2)", key, n); err != nil {
			return err
		}
		var publisher message.Publisher
		publisher, err := sql.NewPublisher(sql.TxFromPgx(tx), sql.PublisherConfig{SchemaAdapter: schema}, logger)
		if err != nil {
			return err
		}
		to := v.sqlTopic()
		if v.forwarded {
			publisher = forwarder.NewPublisher(publisher, forwarder.PublisherConfig{ForwarderTopic: v.sqlTopic()})
			to = topic
		}
		empty, err := json.Marshal(event{key, n, ""})
		if err != nil {
			return err
		}
		payload, err := json.Marshal(event{key, n, strings.Repeat("x", eventBytes-len(empty))})
		if err != nil {
			return err
		}
		sent := message.NewMessage(watermill.NewUUID(), payload)
		sent.Metadata.Set("key", key)
		return publisher.Publish(to, sent)
	})
}

func relay(ctx context.Context, v variant, _ task) error {
	db, err := connect(ctx)
	if err != nil {
		return err
	}
	subscriber, err := sqlSubscriber(db)
	if err != nil {
		return err
	}
	publisher, err := v.publisher()
	if err != nil {
		return err
	}
	running, err := forwarder.NewForwarder(subscriber, publisher, logger, forwarder.Config{ForwarderTopic: v.sqlTopic()})
	if err != nil {
		return err
	}
	return running.Run(ctx)
}

func work(ctx context.Context, v variant, _ task) error {
	db, err := connect(ctx)
	if err != nil {
		return err
	}
	from := v.sqlTopic()
	var subscriber message.Subscriber
	if v.forwarded {
		from = topic
		subscriber, err = v.subscriber()
	} else {
		subscriber, err = sqlSubscriber(db)
	}
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddConsumerHandler("effects", from, subscriber, func(received *message.Message) error {
		var e event
		if err := json.Unmarshal(received.Payload, &e); err != nil {
			return err
		}
		const effect = "INSERT INTO effects (key, n) VALUES ($1, $2)"
		if tx, within := sql.TxFromContext(received.Context()); within {
			_, err := tx.ExecContext(received.Context(), effect, e.Key, e.N)
			return err
		}
		_, err := db.Exec(received.Context(), effect, e.Key, e.N)
		return err
	})
	return router.Run(ctx)
}

func processorTime() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}
