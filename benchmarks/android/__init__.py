"""What the Android driver is made of: adb, the phone's state, the files on it, and processes that outlive a cable."""
