# Action Cable: Debian's ruby-actioncable on puma, with a channel that echoes and one for topics.

require "action_controller/railtie"
require "action_cable/engine"

class Application < Rails::Application
  config.eager_load = false
  config.secret_key_base = "a secret of tests"
  config.logger = Logger.new(IO::NULL)
  config.action_cable.disable_request_forgery_protection = true
  config.action_cable.cable = { "adapter" => "async" }
end

module ApplicationCable
  class Connection < ActionCable::Connection::Base
  end

  class Channel < ActionCable::Channel::Base
  end
end

class EchoChannel < ApplicationCable::Channel
  def echo(data)
    transmit({ "id" => data["id"], "text" => data["text"] })
  end

  def publish(data)
    ActionCable.server.broadcast(data["topic"], { "topic" => data["topic"], "text" => data["text"] })
  end
end

class TopicChannel < ApplicationCable::Channel
  def subscribed
    stream_from params[:topic]
  end
end

ActionCable.server.config.cable = { "adapter" => "async" }
ActionCable.server.config.logger = Logger.new(IO::NULL)
ActionCable.server.config.connection_class = -> { ApplicationCable::Connection }
ActionCable.server.config.disable_request_forgery_protection = true

map "/cable" do
  run ActionCable.server
end
