package org.qwenedge.demo

import android.app.Application

/** The process: what lives longer than a screen. */
class DemoApplication : Application() {
    lateinit var services: AppServices
        private set

    override fun onCreate() {
        super.onCreate()
        services = AppServices(this)
        services.session.resume()
    }

    /** The system is short of memory: a model can be opened again, a killed process loses the answer it was writing. */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_BACKGROUND) services.session.sleep()
    }
}
