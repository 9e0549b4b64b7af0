"""Every route of the box."""

from appliance.gateway.routes import admin, health, openai, tasks, usage

routers = (health.router, openai.router, tasks.router, usage.router, admin.router)
